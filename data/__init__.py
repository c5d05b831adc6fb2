"""Data sets as tensors in memory: `load_dataset(name, root, num_examples, split_seed)`."""

from .datasets import NAMES, Dataset, crop_and_mirror, load_dataset, permute_pixels, shuffle_labels, stratified_subset

__all__ = ["NAMES", "Dataset", "crop_and_mirror", "load_dataset", "permute_pixels", "shuffle_labels", "stratified_subset"]
