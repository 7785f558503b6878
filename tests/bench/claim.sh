#!/usr/bin/env bash
# What people write by hand in place of `hanat claim`: curl for IMDSv2, the AWS CLI in a loop. It is
# what the bench compares with, and tests/project/test_bench.py sees to it that it does its job.
#
# Takes: LIFECYCLE_HOOK, the name of the group's launching hook. The two endpoint variables of the
# AWS SDKs are for tests; on an instance they are not set.
set -euo pipefail

imds="${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}"
token="$(curl -sSf -X PUT "$imds/latest/api/token" -H 'X-aws-ec2-metadata-token-ttl-seconds: 300')"
metadata() {
  curl -sSf -H "X-aws-ec2-metadata-token: $token" "$imds/latest/meta-data/$1"
}

instance="$(metadata instance-id)"
region="$(metadata placement/region)"
zone="$(metadata placement/availability-zone)"
mac="$(metadata mac)"
vpc="$(metadata "network/interfaces/macs/$mac/vpc-id")"
interface="$(metadata "network/interfaces/macs/$mac/interface-id")"
export AWS_DEFAULT_REGION="$region"

group="$(aws autoscaling describe-auto-scaling-instances --instance-ids "$instance" \
  --query 'AutoScalingInstances[0].AutoScalingGroupName' --output text)"

# Whatever ends this script, the group gets its answer.
result=ABANDON
complete() {
  aws autoscaling complete-lifecycle-action --lifecycle-hook-name "$LIFECYCLE_HOOK" \
    --auto-scaling-group-name "$group" --instance-id "$instance" \
    --lifecycle-action-result "$result"
}
trap complete EXIT

aws ec2 modify-network-interface-attribute --network-interface-id "$interface" \
  --no-source-dest-check

# One line a table: its ID, and 0.0.0.0/0 if it has a default route, else None.
tables="$(aws ec2 describe-route-tables \
  --filters "Name=vpc-id,Values=$vpc" "Name=tag:NATAZ,Values=any,$zone" \
  --query "RouteTables[].[RouteTableId, Routes[?DestinationCidrBlock=='0.0.0.0/0'] | [0].DestinationCidrBlock]" \
  --output text)"
if [[ -z "$tables" ]]; then
  echo "no route table of $vpc is tagged NATAZ=any or NATAZ=$zone" >&2
  exit 1
fi

while read -r table default_route; do
  verb=replace-route
  if [[ "$default_route" == None ]]; then
    verb=create-route
  fi
  aws ec2 "$verb" --route-table-id "$table" --destination-cidr-block 0.0.0.0/0 \
    --network-interface-id "$interface"
done <<<"$tables"

result=CONTINUE
