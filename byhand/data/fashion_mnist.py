"""Fashion-MNIST: 70,000 photographs of clothes, 28×28, grey."""

from byhand.data.entry import DataFile, Entry

FASHION_MNIST = Entry(
    name="fashion-mnist",
    title="Fashion-MNIST clothes",
    num_train=60_000,
    num_test=10_000,
    shape=(1, 28, 28),
    class_names=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    licence="MIT",
    citation="Xiao, Rasul & Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking, arXiv:1708.07747, 2017",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    torchvision_name="FashionMNIST",
    mirrors=(
        # plain http is what the authors publish; the sha256 of the content is what is trusted, not the connection
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    ),
    files=(
        DataFile(
            "train-images-idx3-ubyte",
            (60_000, 28, 28),
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            gz_bytes=26_421_880,
        ),
        DataFile(
            "train-labels-idx1-ubyte",
            (60_000,),
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            gz_bytes=29_515,
        ),
        DataFile(
            "t10k-images-idx3-ubyte",
            (10_000, 28, 28),
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            gz_bytes=4_422_102,
        ),
        DataFile(
            "t10k-labels-idx1-ubyte",
            (10_000,),
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            gz_bytes=5_148,
        ),
    ),
)  # fmt: skip
