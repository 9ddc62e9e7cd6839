#!/usr/bin/env bash
# Says whether a binary is what the packaged one has to be, and fails when it is not. tests/binary/packaged.rs runs it.
# Usage: hardening.sh BINARY
set -euo pipefail
binary=$(realpath "$1")
cd "$(dirname "$0")/.."
failed=
check() { # check NAME CONDITION...: the condition is a command
    if "${@:2}"; then printf 'ok      %s\n' "$1"; else printf 'MISSING %s\n' "$1"; failed=yes; fi
}
header=$(LC_ALL=C readelf -hW "$binary")
segments=$(LC_ALL=C readelf -lW "$binary")
dynamic=$(LC_ALL=C readelf -dW "$binary")
sections=$(LC_ALL=C readelf -SW "$binary")
has() { grep -Eq -- "$2" <<<"$1"; }
lacks() { ! grep -Eq -- "$2" <<<"$1"; }

check "loaded at an address nobody knows (position independent)" has "$header" 'Type: +DYN'
check "static: no interpreter" lacks "$segments" '^ +INTERP'
check "static: no shared library" lacks "$dynamic" '\(NEEDED\)'
check "no search path for libraries" lacks "$dynamic" '\((RPATH|RUNPATH)\)'
check "relocated tables are read-only (RELRO)" has "$segments" '^ +GNU_RELRO'
check "all of them, from the start (BIND_NOW)" has "$dynamic" 'BIND_NOW|Flags:.* NOW'
check "the stack holds no code" has "$segments" '^ +GNU_STACK .* RW +0'
check "no segment is both written and run" lacks "$segments" '^ +[A-Z_]+ +0x.* RWE '
check "no relocations in code" lacks "$dynamic" '\(TEXTREL\)'
check "stripped" lacks "$sections" ' \.(symtab|debug_[a-z]+) '
names_no_place() { ! grep -aqF -e "${CARGO_HOME:-$HOME/.cargo}/registry" -e "$PWD/" "$binary"; }
check "no path of the machine that built it" names_no_place
[ -z "$failed" ]
