# One image for every part: docker run ... dicomferry ingest | dispatcher | worker | forwarder | flower
ARG PYTHON_IMAGE=python:3.13-slim-trixie

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
# Both names: the build's own environment takes the constraints under the old or the new one.
ENV PIP_CONSTRAINT=/src/constraints.txt \
    PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
# Without pip: it stays in this stage and installs from outside.
RUN python3 -m venv --without-pip /opt/dicomferry
COPY pyproject.toml constraints.txt ./
# The dependencies first and alone: a change of the source leaves this layer as it is.
RUN python3 -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
      > requirements.txt \
 && python3 -m pip --python /opt/dicomferry/bin/python install -r requirements.txt
COPY . .
RUN python3 -m pip --python /opt/dicomferry/bin/python install --no-deps .

FROM ${PYTHON_IMAGE}
# A volume mounted here for the first time takes over this owner.
RUN groupadd --gid 10001 dicomferry \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin dicomferry \
 && install -d -o 10001 -g 10001 -m 0750 /var/lib/dicomferry
COPY --from=build /opt/dicomferry /opt/dicomferry
ENV PATH=/opt/dicomferry/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    DICOMFERRY_SPOOL=/var/lib/dicomferry
USER 10001:10001
# Where dicomferry.toml is looked for.
WORKDIR /etc/dicomferry
VOLUME /var/lib/dicomferry
EXPOSE 11112
ENTRYPOINT ["dicomferry"]
CMD ["--help"]
