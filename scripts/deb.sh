#!/bin/sh
# Builds the Debian package into out/deb and prints its path.
#   deb.sh [VERSION]    default: what git describes, as a Debian version
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
version=${1:-}
if [ -z "$version" ]; then
	tag=$(git describe --tags --match 'v[0-9]*' --abbrev=0 2>/dev/null || echo v0.0.0)
	version=${tag#v}
	[ "$(git rev-list -n1 "$tag" 2>/dev/null || true)" = "$(git rev-parse HEAD)" ] ||
		version="$version+git$(git show -s --format=%cd --date=format:%Y%m%d%H%M%S).$(git rev-parse --short HEAD)"
fi
case $version in [0-9]*) ;; *) echo "deb: version $version must begin with a digit" >&2; exit 1 ;; esac
arch=$("$go" env GOARCH)
root=out/deb/root
rm -rf out/deb
for d in sbin bin lib/systemd/system lib/sysctl.d lib/tmpfiles.d lib/modules-load.d share/man/man1 share/man/man8 \
	share/bash-completion/completions share/zsh/vendor-completions share/fish/vendor_completions.d share/doc/shadowcast/examples; do
	mkdir -p "$root/usr/$d"
done
for p in shadowcastd:sbin shadowctl:bin; do
	CGO_ENABLED=0 "$go" build -trimpath -ldflags "-s -w -X main.version=$version -X main.release=$version" -o "$root/usr/${p#*:}/${p%:*}" "./cmd/${p%:*}"
done
cp configs/systemd/*.service "$root/usr/lib/systemd/system/"
cp configs/sysctl.d/*.conf "$root/usr/lib/sysctl.d/"
cp configs/tmpfiles.d/*.conf "$root/usr/lib/tmpfiles.d/"
cp configs/modules-load.d/*.conf "$root/usr/lib/modules-load.d/"
"$root/usr/sbin/shadowcastd" man "$root/usr/share/man/man8"
"$root/usr/bin/shadowctl" man "$root/usr/share/man/man1"
gzip -9n "$root"/usr/share/man/man[18]/*
"$root/usr/bin/shadowctl" completion bash >"$root/usr/share/bash-completion/completions/shadowctl"
"$root/usr/bin/shadowctl" completion zsh >"$root/usr/share/zsh/vendor-completions/_shadowctl"
"$root/usr/bin/shadowctl" completion fish >"$root/usr/share/fish/vendor_completions.d/shadowctl.fish"
doc=$root/usr/share/doc/shadowcast
cp README.md docs/*.md "$doc/"
cp LICENSE "$doc/copyright"
cp configs/shadowcast.example.yaml configs/prometheus/alerts.yaml configs/routers/*.conf "$doc/examples/"
cp configs/grafana/shadowcast.json "$doc/examples/grafana-shadowcast.json"
find out/deb/root -type f -exec chmod 644 {} + -o -type d -exec chmod 755 {} +
chmod 755 "$root/usr/sbin/shadowcastd" "$root/usr/bin/shadowctl"
deb=out/deb/shadowcast_${version}_$arch.deb
ARCH=$arch VERSION=$version "$go" tool -modfile=packaging/tools.mod nfpm package -f packaging/nfpm.yaml -p deb -t "$deb" >/dev/null
echo "$deb"
