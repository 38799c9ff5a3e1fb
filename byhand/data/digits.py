"""digits: 1,797 handwritten digits, 8×8, grey; shipped with byhand, so that everything runs without a download."""

from pathlib import Path
from typing import TYPE_CHECKING

from byhand.data.entry import DataFile, Entry

if TYPE_CHECKING:
    from byhand.data.arrays import Dataset

FOLDER = Path(__file__).parent / "embedded"
SPLIT_SEED = 0

DIGITS = Entry(
    name="digits",
    title="UCI handwritten digits, 8×8",
    num_train=1437,
    num_test=360,
    shape=(1, 8, 8),
    class_names=tuple("0123456789"),
    licence="CC BY 4.0",
    citation="Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998, doi:10.24432/C50P49",
    homepage="https://doi.org/10.24432/C50P49",
    kind="embedded",
    files=(
        DataFile(
            "digits-images-idx3-ubyte",
            (1797, 8, 8),
            "359cd13f0f514122884198b78a131df597421cbf5e93a76678fa96fc548f0d96",
        ),
        DataFile(
            "digits-labels-idx1-ubyte",
            (1797,),
            "ce71631c1f31ce56fa54f31d1d498fafacff59b001e6c30c4a5e29508aa277ad",
        ),
    ),
)


def embedded_path(file: DataFile) -> Path:
    """Where the file lies within the package."""
    return FOLDER / f"{file.name}.gz"


def load_digits() -> "Dataset":
    """The embedded digits: 1,437 for training and 360 for the test, by a fixed random permutation.

    The files hold the values of UCI's `optdigits.tes`, 0..16, in its order (which is also scikit-learn's). In the
    data set they are stretched to the 0..255 of other grey images, v -> round(255 v / 16); round(16 x / 255) gives
    them back exactly. The test part is the first 360 of `fixed_permutation(1797, 0)`; like scikit-learn's usual split
    it mixes the writers, so it measures digits, not unknown hands.

    Raises:
        DataError: the package's files are damaged.
    """
    import numpy as np
    import torch

    from byhand.data.arrays import Dataset, check_labels, fixed_permutation, remedy
    from byhand.data.idx import read_idx
    from byhand.errors import DataError

    arrays = []
    sha256 = {}
    for file in DIGITS.files:
        path = embedded_path(file)
        array, sha256[file.name] = read_idx(path, file.shape[1:], file.shape[0], remedy(DIGITS, path))
        if sha256[file.name] != file.sha256:
            raise DataError(f"{path}: its content is not what byhand was published with; {remedy(DIGITS, path)}")
        arrays.append(array)
    sixteenths, labels = arrays
    images = torch.from_numpy(((sixteenths.astype(np.uint16) * 255 + 8) // 16).astype(np.uint8)).unsqueeze(1)
    targets = torch.from_numpy(labels).long()
    check_labels(targets, len(images), DIGITS, embedded_path(DIGITS.files[1]))
    order = fixed_permutation(len(images), SPLIT_SEED)
    test, train = (torch.from_numpy(np.sort(part)) for part in (order[: DIGITS.num_test], order[DIGITS.num_test :]))
    return Dataset(
        DIGITS.name,
        images[train],
        targets[train],
        images[test],
        targets[test],
        class_names=DIGITS.class_names,
        sha256=sha256,
        source="embedded",
    )
