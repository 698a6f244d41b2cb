#!/usr/bin/env bash
# Export and clean must leave the tree as it is: what is committed is what the notebooks say.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(find nbs -name '*.ipynb' -not -path '*/.*' | wc -l)" -gt 30 ] || { echo "no notebooks found" >&2; exit 1; }
before=$(find koa_repro nbs \( -name '*.py' -o -name '*.ipynb' \) -not -path '*/.*' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
nbdev_export
nbdev_clean
after=$(find koa_repro nbs \( -name '*.py' -o -name '*.ipynb' \) -not -path '*/.*' -print0 | sort -z | xargs -0 sha256sum | sha256sum)
if [ "$before" != "$after" ]; then
    echo "nbdev_export or nbdev_clean changed files: run both, look at the difference, and commit it." >&2
    git --no-pager diff --stat -- koa_repro nbs >&2 || true
    exit 1
fi
echo "export and clean leave no difference"
