"""What keeps and moves a record: backups, the log of deletions, verification, exports, copies."""
