"""What several tests share: readers of raw files that know nothing of ana, processes, filesystems to mount."""
