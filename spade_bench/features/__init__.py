"""Feature files: finding, formats, the bags of cases, packs and the cache."""
