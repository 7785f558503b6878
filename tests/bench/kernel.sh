#!/bin/sh
# The kernel's set-up as a boot script does it: settings by sysctl, rules by nft, both looked at
# afterwards. RULES is a file of nft's.
set -eu
settings="net.ipv4.ip_forward=1 net.ipv4.conf.ens5.forwarding=1
net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.ens5.send_redirects=0
net.ipv4.conf.ens5.accept_redirects=0"
nft --file "$RULES"
nft list table ip hanat >/dev/null
for setting in $settings net.netfilter.nf_conntrack_tcp_timeout_established=7440; do
    sysctl -q -w "$setting"
    [ "$(sysctl -n "${setting%=*}")" = "${setting#*=}" ]
done
