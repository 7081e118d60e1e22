#!/bin/sh
# A Debian 13 root with strongSwan 6 in out/trixie, for the lab scenario strongswan-6:
# Debian 12 has 5.9 only. Nothing of it runs outside of the lab.
set -eu
cd "$(dirname "$0")/.."
root=$PWD/out/trixie
[ -x "$root/usr/sbin/charon-systemd" ] && exit 0
sudo=""
[ "$(id -u)" = 0 ] || sudo=sudo
command -v debootstrap > /dev/null || {
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get update -q
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends debootstrap
}
mkdir -p out
$sudo rm -rf "$root.new"
$sudo debootstrap --variant=minbase --include=charon-systemd,strongswan-swanctl,libcharon-extra-plugins,libcharon-extauth-plugins,libstrongswan-extra-plugins \
	trixie "$root.new" > out/trixie.log 2>&1 || {
	echo "making a root with strongSwan 6 failed:" >&2
	tail -20 out/trixie.log >&2
	exit 1
}
$sudo rm -rf "$root"
$sudo mv "$root.new" "$root"
