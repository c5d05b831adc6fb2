#!/usr/bin/env bash
# Start a Slurm of one node on the loopback device, run the tests here against it, and stop it. Needs root, and Debian's packages slurm-wlm
# and munge, which it installs if it can; where that fails, it says so and ends well.
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() {
    echo "SKIPPED tests/slurm: $1"
    exit 0
}

[ "$(id -u)" = 0 ] || skip "a Slurm can only be started by root"
if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    command -v apt-get >/dev/null || skip "slurm-wlm and munge are not installed, and there is no apt-get"
    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge) >/dev/null 2>&1 ||
        skip "slurm-wlm and munge could not be installed"
fi

dir=$(mktemp -d)
host=$(hostname -s)
mkdir "$dir/state" "$dir/spool"
cat >"$dir/slurm.conf" <<E1
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
JobRequeue=1
KillWait=20
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=$(awk '/^MemTotal/ {print int($2 * 0.9 / 1024)}' /proc/meminfo) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
E1
export SLURM_CONF=$dir/slurm.conf

mkdir -p /run/munge && chown munge /run/munge
own_munge=
pgrep -x munged >/dev/null || { runuser -u munge -- munged && own_munge=1; } || skip "munged does not start"
stop() {
    scancel --user=root 2>/dev/null || true
    for name in slurmd slurmctld; do
        [ ! -f "$dir/$name.pid" ] || kill "$(cat "$dir/$name.pid")" || true
    done
    [ -z "$own_munge" ] || pkill -x munged || true
    sleep 1
    rm -rf "$dir" || true
}
trap stop EXIT
slurmctld && slurmd || skip "the daemons do not start"
for _ in $(seq 30); do
    sinfo --noheader --format=%t 2>/dev/null | grep -q idle && break
    sleep 1
done
sinfo --noheader --format=%t | grep -q idle || skip "the node does not come up: $(tail -n 3 "$dir"/*.log | tr '\n' ' ')"
python -m pytest tests/slurm -p no:cacheprovider "$@"
