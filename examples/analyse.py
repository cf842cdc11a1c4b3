"""Which sandbox starts how fast? Reads measurements (peer, run, milliseconds), writes summary.json and report.md."""

import csv
import json
import statistics
import sys

by_peer = {}
with open(sys.argv[1], newline="") as file:
    for row in csv.DictReader(file):
        by_peer.setdefault(row["peer"], []).append(float(row["milliseconds"]))

peers = {}
for peer, times in by_peer.items():
    cuts = statistics.quantiles(times, n=100)
    far = cuts[74] + 3 * (cuts[74] - cuts[24])
    peers[peer] = {
        "runs": len(times),
        "median_ms": round(statistics.median(times), 2),
        "p95_ms": round(cuts[94], 2),
        "spread_ms": round(statistics.stdev(times), 2),
        "outliers": sum(time > far for time in times),
    }

with open("summary.json", "w") as file:
    json.dump({"rows": sum(len(times) for times in by_peer.values()), "peers": peers}, file, indent=2)

with open("report.md", "w") as file:
    print("| peer | runs | median ms | p95 ms | outliers |", file=file)
    print("|---|---:|---:|---:|---:|", file=file)
    for peer, f in sorted(peers.items(), key=lambda item: item[1]["median_ms"]):
        print(f"| {peer} | {f['runs']} | {f['median_ms']} | {f['p95_ms']} | {f['outliers']} |", file=file)

fastest = min(peers, key=lambda peer: peers[peer]["median_ms"])
print(f"{len(by_peer)} peers, {sum(map(len, by_peer.values()))} runs; the fastest is {fastest}")
