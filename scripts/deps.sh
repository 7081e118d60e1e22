#!/bin/sh
# Installs what Debian must provide. Leaves no service of these packages
# running: policy-rc.d refuses their start, and their units are disabled where
# systemd runs; the lab and shadowcastd start their own instances.
set -eu
want="charon-systemd strongswan-swanctl strongswan-libcharon libstrongswan-extra-plugins libcharon-extra-plugins libcharon-extauth-plugins bird2 bind9 frr frr-pythontools user-mode-linux smartmontools prometheus chromium iproute2 tcpdump gcc libc6-dev"
[ "${1:-}" = "generate" ] && want="$want clang llvm libbpf-dev linux-libc-dev protobuf-compiler libprotobuf-dev"
missing=""
for p in $want; do
	dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q "install ok installed" || missing="$missing $p"
done
if [ -n "$missing" ]; then
	echo "installing:$missing"
	policy=/usr/sbin/policy-rc.d
	made=""
	if [ ! -e $policy ]; then
		printf '#!/bin/sh\nexit 101\n' > $policy
		chmod 755 $policy
		made=1
	fi
	trap '[ -z "$made" ] || rm -f $policy' EXIT
	log=$(mktemp)
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get update -q && apt-get install -q -y --no-install-recommends $missing; } > "$log" 2>&1 || {
		echo "installing Debian packages failed:" >&2
		tail -20 "$log" >&2
		rm -f "$log"
		exit 1
	}
	rm -f "$log"
	if [ -d /run/systemd/system ]; then
		systemctl disable --now strongswan.service strongswan-starter.service bird.service frr.service named.service smartmontools.service prometheus.service >/dev/null 2>&1 || true
	fi
fi
for f in /usr/sbin/charon-systemd /usr/lib/ipsec/plugins/libstrongswan-ha.so /usr/lib/ipsec/plugins/libstrongswan-eap-mschapv2.so /usr/sbin/bird /usr/sbin/named /usr/lib/frr/bgpd /usr/bin/linux.uml /usr/sbin/ip /usr/bin/promtool /usr/bin/chromium; do
	[ -e "$f" ] || { echo "deps: $f is missing although its package is installed" >&2; exit 1; }
done
