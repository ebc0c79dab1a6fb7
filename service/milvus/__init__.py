"""An index in Milvus: what is written there, by whom, and how it is searched."""
