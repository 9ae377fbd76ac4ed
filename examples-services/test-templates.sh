#!/bin/sh
# Instantiates the Python and TypeScript templates, installs what they pin, and runs their own tests.
#   test-templates.sh [DIR]     DIR (default target/subjects/templates) keeps the installs, so a second run is quick
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
dir=${1:-$here/../target/subjects/templates}

missing=
for tool in python3 node npm; do
    command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"
done
if [ -n "$missing" ]; then
    echo "test-templates: missing:$missing. Install Python >= 3.10 and Node >= 20 (with npm) to test the templates." >&2
    exit 1
fi

mkdir -p "$dir"
dir=$(CDPATH='' cd -- "$dir" && pwd)

# copy LANG NAME: a fresh copy of the template's files, as `outrigger new` writes them; installs are kept.
copy() {
    (cd "$here/$1" && find . \( -name node_modules -o -name dist -o -name __pycache__ -o -name .venv \) -prune \
        -o -type f -print) | while IFS= read -r file; do
        mkdir -p "$dir/$1/$(dirname -- "$file")"
        sed "s/{{name}}/$2/g" "$here/$1/$file" >"$dir/$1/$file"
    done
}

# unchanged LANG LOCK: whether the install was made from this very lock file.
unchanged() {
    cmp -s "$dir/$1/$2" "$dir/$1/.installed"
}

echo "test-templates: python"
copy python template-py
cd "$dir/python"
if ! unchanged python requirements.lock; then
    rm -rf .venv .installed
    python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
    cp requirements.lock .installed
fi
.venv/bin/python -m unittest -v

echo "test-templates: typescript"
copy typescript template-ts
cd "$dir/typescript"
if ! unchanged typescript package-lock.json; then
    rm -rf node_modules .installed
    npm ci --no-audit --no-fund --loglevel=error
    cp package-lock.json .installed
fi
npm test --loglevel=error

echo "test-templates: ok"
