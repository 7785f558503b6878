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
case $url in
'' | https://*[!/] | s3://*[!/]) ;;
*)
    echo "URL has to be https://… or s3://… without a slash at its end, not $url" >&2
    exit 2
    ;;
esac

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
