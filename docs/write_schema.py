"""Write `docs/manifest.schema.json` from the table in `ddlabel/manifest_rules.py`: `python docs/write_schema.py`."""

import json
from pathlib import Path

from ddlabel.manifest_rules import json_schema

target = Path(__file__).with_name("manifest.schema.json")
target.write_text(json.dumps(json_schema(), indent=2, sort_keys=True) + "\n", encoding="utf-8")
