"""Stores: put and get records under keys. What is exported here is for who writes a store of his own."""

from ana.stores.base import Store, StoredState
from ana.stores.record_store import RecordStore
from ana.stores.registry import register

__all__ = ["RecordStore", "Store", "StoredState", "register"]
