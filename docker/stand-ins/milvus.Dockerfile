# milvusdb/milvus for a machine without access to an image registry: Milvus 2.3.5 of the Python package of that name,
# with etcd and the object store of the Compose file.
FROM python:3.11-slim-bookworm
RUN apt-get update -q && apt-get install -yq --no-install-recommends curl && rm -rf /var/lib/apt/lists/* \
 && pip install -q --no-cache-dir milvus==2.3.5 "setuptools<81"
RUN mkdir -p /milvus/configs /milvus/lib && printf '%s\n' 'import lzma, pathlib, re, milvus' \
    'data = pathlib.Path(milvus.__file__).parent / "data"' \
    'for packed in (data / "bin").glob("*.lzma"):' \
    '    (pathlib.Path("/milvus/lib") / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))' \
    'text = (data / "config.yaml.template").read_text()' \
    'text = re.sub(r"\{\{[^}:]*:\s*([^}]*?)\s*\}\}", r"\1", text)' \
    'for old, new in {"embed: true": "embed: false", "storageType: local": "storageType: minio",' \
    '                 "{{ etcd_data_dir }}": "/var/lib/milvus/etcd", "{{ system_log_path }}": "\"\"",' \
    '                 "{{ local_storage_dir }}": "/var/lib/milvus/data", "{{ rocksmq_data_dir }}": "/var/lib/milvus/rdb"}.items():' \
    '    assert old in text, old' \
    '    text = text.replace(old, new)' \
    'pathlib.Path("/milvus/configs/milvus.yaml").write_text(text)' \
    'pathlib.Path("/milvus/configs/glog.conf").write_bytes((data / "glog.conf").read_bytes())' \
    > /tmp/unpack.py && python3 /tmp/unpack.py && rm /tmp/unpack.py \
 && chmod +x /milvus/lib/milvus && ln -s /milvus/lib/milvus /usr/local/bin/milvus
ENV MILVUSCONF=/milvus/configs LD_LIBRARY_PATH=/milvus/lib
CMD ["milvus", "run", "standalone"]
