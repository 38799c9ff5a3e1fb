"""MNIST: 70,000 handwritten digits, 28×28, grey."""

from byhand.data.entry import DataFile, Entry

MNIST = Entry(
    name="mnist",
    title="MNIST handwritten digits",
    num_train=60_000,
    num_test=10_000,
    shape=(1, 28, 28),
    class_names=tuple("0123456789"),
    licence="CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition, 1998",
    homepage="http://yann.lecun.com/exdb/mnist/",
    torchvision_name="MNIST",
    # the author's own server has answered 403 or an error page for years, so it is not among them
    mirrors=("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    files=(
        DataFile(
            "train-images-idx3-ubyte",
            (60_000, 28, 28),
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            gz_bytes=9_912_422,
            variants={
                "b61ffb6f513fd9ff8d89824731f6b4ed7863c759c33056d701efb8412469fb04": "rebuilt: pixels of value 1 read 0",
            },
        ),
        DataFile(
            "train-labels-idx1-ubyte",
            (60_000,),
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            gz_bytes=28_881,
        ),
        DataFile(
            "t10k-images-idx3-ubyte",
            (10_000, 28, 28),
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            gz_bytes=1_648_877,
        ),
        DataFile(
            "t10k-labels-idx1-ubyte",
            (10_000,),
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            gz_bytes=4_542,
        ),
    ),
)
