#!/usr/bin/env bash
# What people write by hand as a NAT's user data, up to where tests/bench/claim.sh goes on: the
# kernel's part. `user_data` in tests/bench/outages.py puts the two together.
set -euo pipefail

sysctl -q -w net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 \
  net.ipv4.conf.ens5.send_redirects=0

# The VPC's block is what a template fills in.
nft --file - <<'RULES'
table ip nat {
  chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "ens5" ip daddr != 10.0.0.0/16 masquerade
  }
}
RULES
