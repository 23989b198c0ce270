#!/usr/bin/env bash
# Installs the programs that read what `migrate deploy` writes, so that the tests can ask them: nginx, docker-compose,
# systemd-analyze and promtool, and node with npm, which run Ollama's JavaScript client. Debian or Ubuntu, as root; installs only what is missing and starts no service.
# Ends with 0 when they cannot be had (no root, no apt, no network): the tests that need them then say so and skip.
set -euo pipefail

declare -A packages=(
  [nginx]=nginx-light
  [docker-compose]=docker-compose
  [systemd-analyze]=systemd
  [promtool]=prometheus
  [openssl]=openssl
  [node]=nodejs
  [npm]=npm
)
PATH=$PATH:/usr/sbin:/sbin

missing=()
for program in "${!packages[@]}"; do
  command -v "$program" >/dev/null 2>&1 || missing+=("${packages[$program]}")
done
if [ ${#missing[@]} -eq 0 ]; then
  exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "test-tools.sh: not installed: ${missing[*]} (needs root and apt-get): their tests will be skipped" >&2
  exit 0
fi

# Debian starts a service when its package is installed, unless this file forbids it: nginx would take port 80.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  trap 'rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
echo "test-tools.sh: installing ${missing[*]}" >&2
install() { apt-get -qq -y -o DPkg::Lock::Timeout=300 install --no-install-recommends "${missing[@]}" >/dev/null; }
if ! { apt-get -qq -o DPkg::Lock::Timeout=300 update && install; }; then
  echo "test-tools.sh: apt-get could not install ${missing[*]}: their tests will be skipped" >&2
fi
