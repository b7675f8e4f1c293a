#!/bin/bash
# The init of the lab's kernel: NFS server, clients, then the command. Started by lab_host.py, which kills the
# whole kernel as soon as this writes the status file. Arguments: the lab's folder, as the host sees it.
# The root is the host's own tree, so nothing is written outside the memory filesystems mounted first.
set -u
lab=$1
exec >"$lab/boot.log" 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
source "$lab/settings"

fail() {
  echo "lab: $*"
  echo 125 >"$lab/status"
  sleep infinity
}

# mount_client NAME HOST SERVER_ADDRESS OPTIONS SOURCE
# Own server address and own host name: the server then sees a client of its own (client id, delegations,
# locks), as from another compute node. Without both, the kernel merges the mounts into one client: the server then
# delegates a file to the reader although the other mount writes it, and the reader never sees the file grow.
mount_client() {
  mkdir -p "/run/nfs/$1"
  unshare --uts sh -c 'hostname "$1" && exec mount -t "$2" -o "$3" "$4" "$5"' sh \
    "$2" "$([[ $4 == *vers=4* ]] && echo nfs4 || echo nfs)" "$4,nosharecache,proto=tcp" "$3:$5" "/run/nfs/$1" ||
    fail "cannot mount $1"
}

mount_system() {
  mount -t proc proc /proc
  mount -t sysfs sys /sys
  for folder in /run /var/lib/nfs /dev/shm; do
    mkdir -p "$folder"
    mount -t tmpfs tmpfs "$folder"
  done
  mkdir -p /dev/pts /run/tmp
  mount -t devpts devpts /dev/pts
  chmod 1777 /run/tmp /dev/shm
  hostname lab-server
  ip link set lo up
  for module in lockd nfsd nfs nfsv3 nfsv4 sch_netem loop; do
    modprobe -d "$lab" "$module" || fail "the kernel module $module is missing"
  done
}

start_server() {
  mkdir -p /var/lib/nfs/{v4recovery,sm,sm.bak,rpc_pipefs} /run/srv/{export,full}
  touch /var/lib/nfs/{etab,rmtab,state}
  mount -t tmpfs -o "size=$EXPORT_SIZE" tmpfs /run/srv/export
  mount -t tmpfs -o size=4m tmpfs /run/srv/full
  chmod 1777 /run/srv/export /run/srv/full
  mount -t nfsd nfsd /proc/fs/nfsd
  mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs
  # Nothing was locked before the boot, so no client needs the grace period in which no lock is granted.
  echo 1 >/proc/sys/fs/nfs/nlm_grace_period
  echo 3 >/proc/sys/fs/nfs/nlm_timeout
  rpcbind -w || fail "rpcbind does not start"
  rpc.statd --no-notify || fail "rpc.statd does not start"
  local options=rw,no_root_squash,insecure,no_subtree_check,sync
  exportfs -o "$options,fsid=0,crossmnt" 127.0.0.0/8:/run/srv
  exportfs -o "$options,fsid=1" 127.0.0.0/8:/run/srv/export
  exportfs -o "$options,fsid=2" 127.0.0.0/8:/run/srv/full
  rpc.mountd --port 20048 || fail "rpc.mountd does not start"
  rpc.nfsd --lease-time 10 8 || fail "rpc.nfsd does not start"
  echo Y >/proc/fs/nfsd/v4_end_grace
}

start_proxy() {
  "$PYTHON" -B "$HERE/lossy_proxy.py" --listen 127.0.0.1:20049 --server 127.0.0.1:2049 \
    --control /run/nfs/lossy.sock &
  for ((tries = 0; tries < 200; tries++)); do
    [[ -S /run/nfs/lossy.sock ]] && return
    sleep 0.05
  done
  fail "the proxy does not start"
}

mount_clients() {
  mkdir -p /run/nfs
  start_proxy
  mount_client v4a node-a 127.0.0.1 vers=4.2 /export
  mount_client v4b node-b 127.0.0.2 vers=4.2 /export
  mount_client v3a node-a 127.0.0.1 vers=3 /run/srv/export
  mount_client v3b node-b 127.0.0.2 vers=3 /run/srv/export
  mount_client full4 node-a 127.0.0.1 vers=4.2 /full
  mount_client full3 node-a 127.0.0.1 vers=3 /run/srv/full
  mount_client lossy node-c 127.0.0.1 vers=3,port=20049,mountport=20048,mountproto=tcp /run/srv/export
}

wait_for_locks() {
  for mount in v4a v3a; do
    timeout 60 flock "/run/nfs/$mount/.grace" true || fail "no lock is granted on $mount"
  done
  rm -f /run/srv/export/.grace
}

mount_system
start_server
mount_clients
wait_for_locks
if [[ -n $NETEM ]]; then
  # shellcheck disable=SC2086  # netem's options are several words
  tc qdisc add dev lo root netem $NETEM || fail "netem does not take: $NETEM"
fi
(
  export ANA_TEST_MOUNTS=/run/nfs/v4a:/run/nfs/v4b,/run/nfs/v3a:/run/nfs/v3b
  export ANA_TEST_FULL_MOUNTS=/run/nfs/full4,/run/nfs/full3
  export ANA_TEST_LOSSY_MOUNT=/run/nfs/lossy:/run/nfs/v3b ANA_TEST_LOSSY_CONTROL=/run/nfs/lossy.sock
  export ANA_TEST_EXPORT=/run/srv/export
  exec bash "$lab/command"
) >"$lab/output" 2>&1 </dev/null
status=$?
sync
echo "$status" >"$lab/status.tmp"
mv "$lab/status.tmp" "$lab/status"
sleep infinity
