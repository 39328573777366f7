#!/usr/bin/env bash
# Makes a signed repository for apt of the packages in a folder. `--help` says how.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/apt-repository.sh --key KEY PACKAGES FOLDER

Copies the packages that scripts/build-deb.sh made in PACKAGES to FOLDER, beside those of earlier versions,
and writes the lists of apt there, signed with a key of your GnuPG. Run it again after each build. A web server
offers FOLDER; on each device, once:

  sudo install -m 644 FOLDER/jarvis.gpg /usr/share/keyrings/jarvis.gpg
  echo "deb [signed-by=/usr/share/keyrings/jarvis.gpg] https://ADDRESS ./" |
      sudo tee /etc/apt/sources.list.d/jarvis.list

From then on `sudo apt update && sudo apt install jarvisd` installs it, and `sudo apt upgrade` updates it. A
key is made with `gpg --quick-generate-key "Jarvis packages" ed25519 sign never`; whoever has it can install
anything on the devices.
TEXT
}
key=
while [ $# -gt 0 ]; do
    case $1 in
    --key) key=${2:?} && shift 2 ;;
    --help | -h) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) break ;;
    esac
done
if [ $# -ne 2 ] || [ -z "$key" ]; then
    usage >&2
    exit 2
fi
packages=$1 folder=$2
apt_install dpkg-dev apt-utils gnupg
ls "$packages"/*.deb >/dev/null 2>&1 || fail "no packages in $packages; scripts/build-deb.sh makes them"
gpg --batch --list-secret-keys "$key" >/dev/null 2>&1 ||
    fail "GnuPG has no secret key $key; --help tells how to make one"

mkdir -p "$folder"
cp --update "$packages"/*.deb "$folder/"
cd "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Written apart and moved at the end, the signed list last: apt compares each file with it.
dpkg-scanpackages --multiversion . >"$work/Packages" 2>"$work.said" ||
    { cat "$work.said" >&2; fail "the packages cannot be listed"; }
rm "$work.said"
gzip -9kn "$work/Packages"
apt-ftparchive -o APT::FTPArchive::Release::Origin=Jarvis -o APT::FTPArchive::Release::Label=Jarvis \
    -o APT::FTPArchive::Release::Suite=stable release "$work" >"$work.release"
mv "$work.release" "$work/Release"
gpg --batch --yes --local-user "$key" --clearsign --output "$work/InRelease" "$work/Release"
gpg --batch --yes --export --output "$work/jarvis.gpg" "$key"
chmod 644 "$work"/*
mv "$work"/{Packages,Packages.gz,jarvis.gpg,InRelease} .
note "$folder: $(grep -c '^Package: ' Packages) packages"
