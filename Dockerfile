# A CPU image: docker build -t vht . && docker run --rm -v "$PWD:/work" vht clip.mp4
FROM python:3.12-slim
# OpenCV's and MediaPipe's shared libraries.
RUN apt-get update && apt-get install -y --no-install-recommends libgl1 libglib2.0-0 libegl1 libgles2 \
  && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir /src && rm -rf /src
# Compiled programs are kept here: mount a volume, and later runs start at once.
ENV XDG_CACHE_HOME=/cache
RUN mkdir -m 777 /cache
WORKDIR /work
ENTRYPOINT ["vht-track"]
