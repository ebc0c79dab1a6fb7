"""An index in Milvus: its rows, the process that writes them, and searches."""
