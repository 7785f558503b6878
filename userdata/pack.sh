#!/bin/sh
# Packs the archive that user data and images install hanat from: the binary, the units and the
# manual page, each where the packages (Cargo.toml) have it, too. The same input gives the same
# archive.
#
#   pack.sh BINARY ARCHIVE
set -eu
binary=$1 archive=$2
here=$(dirname "$0")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

install -D -m 755 "$binary" "$root/usr/bin/hanat"
for unit in hanat-claim.service hanat-watch.service; do
    install -D -m 644 "$here/$unit" "$root/usr/lib/systemd/system/$unit"
done
install -D -m 644 "$here/hanat.8" "$root/usr/share/man/man8/hanat.8"
(cd "$root" && find usr -type f) | LC_ALL=C sort |
    tar --create --directory "$root" --files-from - --owner 0 --group 0 --numeric-owner \
        --mtime @0 --file "$root/archive.tar"
gzip -n -9 <"$root/archive.tar" >"$archive"
