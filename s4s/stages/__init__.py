"""The pipeline's stages: each reads and writes files under ``results/<benchmark>`` and nothing else.

A stage checks that what it reads was made from the same part of the config, so that two configs never mix in a folder.
"""
