#!/bin/sh
# Makes the templates in a folder of a release name the archives beside them: where they will be
# found and their SHA-256 become the parameters' defaults.
#
#   fill.sh FOLDER VERSION [URL]
#
# URL is where the folder will be published, https://… or s3://…; without one the templates keep
# asking for it.
set -eu
folder=$1 version=$2 url=${3:-}
# Less than what the templates accept: no query, which fits no file of a folder.
host='(https://[A-Za-z0-9.-]+(:[0-9]+)?|s3://[a-z0-9.-]+)'
if ! echo "$url" | grep -Eqx "($host(/[A-Za-z0-9._~-]+)*)?"; then
    echo "URL has to be https://… or s3://… without a slash at its end, not $url" >&2
    exit 2
fi

default() { # parameter, value: as its default in all templates
    sed -i "/^  $1:\$/,/^    Type: /s|^    Type: .*|&\\n    Default: \"$2\"|" "$folder"/ha-nat*.yaml
}

for architecture in Arm64=aarch64 X86=x86_64; do
    archive=hanat-$version-${architecture#*=}-unknown-linux-gnu.tar.gz
    architecture=${architecture%=*}
    if [ -e "$folder/$archive" ]; then
        sum=$(sha256sum "$folder/$archive")
        default "HanatSha256$architecture" "${sum%% *}"
        [ -z "$url" ] || default "HanatUrl$architecture" "$url/$archive"
    else
        # Nobody is asked for it; the templates' rules refuse instances that would need it.
        default "HanatSha256$architecture" ""
        default "HanatUrl$architecture" ""
    fi
done

# The default is arm64, unless that is what is missing.
if [ ! -e "$folder/hanat-$version-aarch64-unknown-linux-gnu.tar.gz" ]; then
    sed -i '/^  InstanceType:$/,/^    Default:/s/^    Default: .*/    Default: t3.nano/' "$folder"/ha-nat*.yaml
fi
