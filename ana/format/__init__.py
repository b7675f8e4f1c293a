"""The record format and addresses. Pure: bytes in, bytes out."""
