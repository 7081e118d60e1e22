#!/bin/sh
# A picture of `shadowctl top` out of what a lab run recorded of its terminal.
#
#   top-picture.sh RECORDING PATTERN PICTURE.png
#
# RECORDING is out/lab/health-drain/top.ansi; the first frame with a line that matches
# PATTERN (awk's) is drawn by headless Chromium.
set -eu
[ $# = 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
page=$(mktemp -d)
trap 'rm -rf "$page"' EXIT
# Each frame begins with "home" and ends lines with "erase" (ECMA-48).
esc=$(printf '\033')
sed "s/$esc\[H/\n\f\n/g; s/$esc\[[KJ]//g" "$1" | awk -v want="$2" '
	/^\f$/ { if (hit) exit; text = ""; next }
	{ text = text $0 "\n"; if ($0 ~ want) hit = 1 }
	END { if (!hit) exit 1; printf "%s", text }' > "$page/frame" || { echo "no frame of $1 matches $2" >&2; exit 1; }
{
	echo '<!doctype html><meta charset=utf-8><style>body{margin:0;padding:12px;background:#111;color:#ddd}pre{margin:0;font:14px/1.25 monospace;white-space:pre}</style><pre>'
	sed 's/&/\&amp;/g; s/</\&lt;/g' "$page/frame"
	echo '</pre>'
} > "$page/top.html"
wide=$(awk '{ if (length($0) > n) n = length($0) } END { print int(n * 8.5) + 40 }' "$page/frame")
high=$(awk 'END { print int(NR * 17.5) + 40 }' "$page/frame")
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$page/profile" --window-size="$wide,$high" --screenshot="$3" "file://$page/top.html" >/dev/null 2>&1
[ -s "$3" ] || { echo "chromium drew nothing" >&2; exit 1; }
