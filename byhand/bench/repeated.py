"""An epoch over MNIST's training images repeated: ``python -m byhand.bench.repeated TIMES THREADS [DATA_DIR]``.

It prints {"seconds", "images", "peak"} as JSON; a process of its own, so that the peak of memory is that of this size.
"""

import json
import sys
from dataclasses import replace

import torch

from byhand import data
from byhand.bench.peak import peak_resident_bytes
from byhand.bench.trainings import first_images, next_epoch
from byhand.recipes import recipe

if __name__ == "__main__":
    times, threads, data_dir = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] if sys.argv[3:] else None
    torch.set_num_threads(threads)
    read = data.load("mnist", data_dir)
    # Also once is a copy, so that the peaks of two sizes differ by the images alone.
    images, labels = read.train_images.repeat(times, 1, 1, 1), read.train_labels.repeat(times)
    repeated = replace(read, train_images=images, train_labels=labels)
    next_epoch(recipe("lenet5-mnist"), first_images(read), 1)()  # warm
    del read
    epoch = next_epoch(recipe("lenet5-mnist"), repeated, 1)()
    print(json.dumps({"seconds": epoch.seconds, "images": len(images), "peak": peak_resident_bytes()}))
