# Written without Docker at hand: neither image has been built. Its commands for the CPU were run one by one in a fresh
# environment of Python 3.11, from a copy of the checkout, and all stages on a few small phantoms after them.
# The command line in an image. CPU:   docker build -t monai_plan .
# A GPU with CUDA 12.6:                 docker build -t monai_plan:cuda --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126 .
# Then:                                 docker run --rm -v "$PWD/out:/out" monai_plan quickstart --output_dir /out
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

WORKDIR /opt/monai_plan
COPY constraints.txt ./
# PyTorch by itself: this layer is large and stays while the code changes
RUN pip install -c constraints.txt --index-url "$TORCH_INDEX" torch
COPY . .
RUN pip install -c constraints.txt ".[dicom]"

# patients' files are read as the user who runs the container: docker run --user "$(id -u):$(id -g)" …
ENV HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
WORKDIR /work
ENTRYPOINT ["monai-plan"]
CMD ["--help"]
