#!/usr/bin/env bash
# A Ray cluster of one machine, for `ray job submit`: with a token, on ports of its own, in a folder of its own.
#
#   cluster/local.sh up|down|status [--name NAME] [--port-base N] [--cpus N] [--ray PATH]
#
# NAME (default: ilm) names the folder /tmp/ray-NAME; N (default: 26500) is the first of eight ports:
#   N gcs, N+1 dashboard and jobs, N+2 metrics, N+3 client, N+4 and N+5 dashboard agent, N+6 and N+7 metrics of Ray itself.
# All listen on 127.0.0.1 alone.
# `down` ends the processes of that folder and no others: other Rays on this machine stay as they are.
# Exit code 2: a wrong argument or state, said in one line.
set -euo pipefail

fail() { echo "local.sh: $*" >&2; exit 2; }

action=${1:-}
[ $# -gt 0 ] && shift
name=ilm port_base=26500 cpus='' ray="$(cd "$(dirname "$0")/.." && pwd)/.venv/bin/ray"
while [ $# -gt 0 ]; do
    [ $# -ge 2 ] || fail "$1 needs a value"
    case $1 in
        --name) name=$2 ;;
        --port-base) port_base=$2 ;;
        --cpus) cpus=$2 ;;
        --ray) ray=$2 ;;
        *) fail "unknown argument $1; use up|down|status [--name NAME] [--port-base N] [--cpus N] [--ray PATH]" ;;
    esac
    shift 2
done
# The folder's name becomes part of socket paths, which may hold 107 bytes.
[[ $name =~ ^[a-z0-9][a-z0-9-]{0,19}$ ]] || fail "--name '$name' must be 1 to 20 of a-z, 0-9 and -"
# Ray's workers take 10002-19999, and from 32768 on any connection may sit on a port.
[[ $port_base =~ ^[0-9]{1,5}$ ]] && [ "$port_base" -ge 20000 ] && [ "$port_base" -le 32760 ] ||
    fail "--port-base '$port_base' must lie in 20000-32760"
[[ $cpus =~ ^[0-9]*$ ]] || fail "--cpus '$cpus' must be a number"
folder=/tmp/ray-$name
dashboard=http://127.0.0.1:$((port_base + 1))

# Our processes: those that were started with our folder in an option of Ray's, and all that they have started.
own_processes() {
    ps -eo pid=,ppid=,args= | awk -v own="$folder" -v clients=" $(client_servers) " '
        { pid = $1; parent[pid] = $2; order[++n] = pid
          if ($0 ~ "/ray/" && $0 ~ ("dir=" own "(/| |$)") || index(clients, " " pid " ")) mine[pid] = 1 }
        END { do { more = 0
                   for (i = 1; i <= n; i++) if (!mine[order[i]] && mine[parent[order[i]]]) { mine[order[i]] = 1; more = 1 }
              } while (more)
              for (i = 1; i <= n; i++) if (mine[order[i]]) print order[i] }'
}

# The server behind the client port has our folder in no option; it writes its log there.
client_servers() {
    local pid
    for pid in $(pgrep -f ray.util.client.server); do
        [[ $(readlink "/proc/$pid/fd/1") != "$folder"/* ]] || echo -n "$pid "
    done
}

up() {
    [ -x "$ray" ] || fail "no ray at $ray; run 'make setup' first, or name yours with --ray PATH"
    [ -z "$(own_processes)" ] || fail "cluster '$name' is up already; 'cluster/local.sh status --name $name' shows it"
    mkdir -p "$folder"
    chmod 700 "$folder"
    (umask 077 && "$(dirname "$ray")/python" -c 'import secrets; print(secrets.token_hex(32))' > "$folder/token")
    # shellcheck source=/dev/null  # cluster/environment.sh
    . "$(dirname "$0")/environment.sh"
    # Jobs find `python` in the environment that this Ray belongs to. Ray listens at the node's address, and it turns a
    # loopback --node-ip-address into one that other machines reach, unless RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 rules
    # them out, which is Ray's own default on macOS: then the node's address is 127.0.0.1.
    if ! PATH="$(dirname "$ray"):$PATH" RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token" \
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_metrics_report_interval_ms="${RAY_metrics_report_interval_ms:-5000}" \
        AUTOSCALER_METRIC_PORT=$((port_base + 6)) DASHBOARD_METRIC_PORT=$((port_base + 7)) \
        "$ray" start --head ${cpus:+--num-cpus "$cpus"} --port "$port_base" \
        --dashboard-host 127.0.0.1 --dashboard-port $((port_base + 1)) --metrics-export-port $((port_base + 2)) \
        --ray-client-server-port $((port_base + 3)) --dashboard-agent-listen-port $((port_base + 4)) \
        --dashboard-agent-grpc-port $((port_base + 5)) --temp-dir "$folder" --disable-usage-stats \
        > "$folder/start.log" 2>&1; then
        tail -n 3 "$folder/start.log" >&2
        down > /dev/null
        fail "ray did not start (the lines above); a port of $port_base-$((port_base + 7)) may be taken: try --port-base"
    fi
    echo "$port_base" > "$folder/port_base"
    tell
}

tell() {
    echo "dashboard  $dashboard  (metrics: http://127.0.0.1:$((port_base + 2))/metrics)"
    echo "first      export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$folder/token RAY_API_SERVER_ADDRESS=$dashboard"
    echo "then       ray job submit --working-dir . -- python jobs/pipeline.py --preset nano --run-dir \$PWD/runs/nano"
}

down() {
    local pids tries
    pids=$(own_processes)
    # shellcheck disable=SC2086  # a list of numbers
    [ -z "$pids" ] || kill -TERM $pids 2> /dev/null || true
    for tries in $(seq 100); do
        [ -n "$(alive "$pids")" ] || break
        sleep 0.1
        # What ignores the polite signal for 5 seconds has to go.
        # shellcheck disable=SC2046
        [ "$tries" -ne 50 ] || kill -KILL $(alive "$pids") 2> /dev/null || true
    done
    [ -z "$(alive "$pids")" ] || fail "these processes do not end: $(alive "$pids" | tr '\n' ' ')"
    rm -f "$folder/token" "$folder/port_base"
    echo "cluster '$name' is down; its logs stay in $folder"
}

alive() { for pid in $1; do [ ! -d "/proc/$pid" ] || grep -qs '^State:[[:space:]]*Z' "/proc/$pid/status" || echo "$pid"; done; }

status() {
    local pids
    pids=$(own_processes)
    if [ -z "$pids" ]; then
        echo "cluster '$name' is down"
        return 1
    fi
    [ ! -f "$folder/port_base" ] || port_base=$(cat "$folder/port_base")
    dashboard=http://127.0.0.1:$((port_base + 1))
    echo "cluster '$name' is up: $(echo "$pids" | wc -l) processes"
    tell
}

case $action in
    up | down | status) "$action" ;;
    *) fail "say what to do: up|down|status [--name NAME] [--port-base N] [--cpus N] [--ray PATH]" ;;
esac
