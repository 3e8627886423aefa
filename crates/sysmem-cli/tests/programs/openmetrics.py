"""Reads OpenMetrics text from standard input with the parser of prometheus_client, whose exposition
format is the reference, and writes each sample as a line: type, name, labels,
value as text (JSON has no infinity)."""

import json
import sys

from prometheus_client.openmetrics.parser import text_fd_to_metric_families

for family in text_fd_to_metric_families(sys.stdin):
    if not family.documentation:
        sys.exit(f"{family.name} has no help")
    for sample in family.samples:
        print(json.dumps([family.type, sample.name, sample.labels, str(sample.value)]))
