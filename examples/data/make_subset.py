"""Make mnist_subset.npz from the whole of MNIST: its first 4,000 training and 1,000 test images.

Run ``python examples/data/make_subset.py FOLDER``, with the four IDX files or mnist.npz in FOLDER.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import mnist_data


def as_uint8(images: np.ndarray) -> np.ndarray:
    """The images as MNIST has them, (n, 28, 28) from 0 to 255."""
    return np.rint(images * 255).astype(np.uint8).reshape(-1, 28, 28)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    digits = mnist_data.load(Path(sys.argv[1]))
    np.savez_compressed(
        mnist_data.SUBSET,
        x_train=as_uint8(digits.train_images[:4000]),
        y_train=digits.train_labels[:4000].astype(np.uint8),
        x_test=as_uint8(digits.test_images[:1000]),
        y_test=digits.test_labels[:1000].astype(np.uint8),
    )
    print(f"{mnist_data.SUBSET}: {mnist_data.SUBSET.stat().st_size:,} bytes")
