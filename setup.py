"""pip install -e . puts the scripts and packages on the path. Use a separate environment: names such as `data` and `utils` may clash."""

from setuptools import setup

setup(
    name="deep-weight-prior-reproduction",
    version="0.1.0",
    description="The Deep Weight Prior (Atanov et al., ICLR 2019), reproduced",
    license="MIT",
    python_requires=">=3.11",
    packages=["data", "experiments", "models", "myexman"],
    py_modules=["prune_kernels", "train_bnn", "train_source", "train_vae_prior", "utils"],
    extras_require={
        "cluster": ["submitit>=1.5"],
        "tensorboard": ["tensorboard>=2.14"],
        "tutorial": ["jupyter"],
        "peers": ["bayesian-torch==0.5.0", "laplace-torch==0.3"],
    },
    install_requires=[
        "torch>=2.11,<2.14",
        "torchvision>=0.26",
        "numpy>=1.26",
        "scipy>=1.11",
        "matplotlib>=3.8",
        "tqdm>=4.60",
        "pyyaml>=6",
        "filelock>=3.12",
        "safetensors>=0.4",
    ],
)
