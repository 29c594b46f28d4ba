#!/bin/bash
# Runs inside a fresh Debian 11: builds OpenSSL 3.0 and CPython 3.11 from Debian 12's source packages, into /usr/local.
#
# Why these: a program asks for the glibc of the machine it was linked on, so the build machine is the oldest Debian
# that is still to be had. Its own OpenSSL (1.1.1) and Python (3.9) have had no upstream for years; Debian 12's get
# security updates. Debian's signed index of sources names the hash of every file that is fetched.
#
# Of CPython's patches all are applied, in Debian's order, except those that /recipe/left-out names: they arrange
# Debian's own folders. So a security patch that comes tomorrow is applied without a change here, and a patch that
# does not apply ends the build.
#
# Writes /usr/local/share/fluxen-base: what was built, which patches are in it, what newer version could not be fetched.
set -euo pipefail
suite=$1
export LC_ALL=C DEBIAN_FRONTEND=noninteractive
record=/usr/local/share/fluxen-base
mkdir -p "$record" /build
cd /build

say() { printf '   %s (%ds)\n' "$*" "$SECONDS"; }
logged() { "$@" >>/build/log 2>&1 || { tail -n 40 /build/log; echo "failed: $*"; exit 1; }; }

sed "s/$(. /etc/os-release; echo "$VERSION_CODENAME")/$suite/; s/^deb /deb-src /" /etc/apt/sources.list \
    >/etc/apt/sources.list.d/source.list
logged apt-get update -q

# The newest version of a source package that is to be had; a newer one that the index names but nobody serves is recorded.
fetch() {
    local package=$1 version
    for version in $(apt-cache showsrc --only-source "$package" | sed -n 's/^Version: //p' |
        perl -MDpkg::Version -e 'print map { "$_\n" } sort { version_compare($b, $a) } map { chomp; $_ } <STDIN>'); do
        if apt-get source -q --download-only "$package=$version" >>/build/log 2>&1; then
            logged dpkg-source --skip-patches -x "${package}_${version#*:}.dsc" "$package"
            echo "$package $version" >>"$record/built"
            say "$package $version"
            return
        fi
        echo "$package $version" >>"$record/missed"
        say "NOTE: $package $version is in the index, but could not be fetched"
    done
    tail -n 20 /build/log
    echo "no source of $package could be fetched"
    exit 1
}

apply() {
    local package=$1 patch
    sed 's/[[:space:]]*$//; /^#/d; /^$/d' debian/patches/series >/build/series
    while read -r patch _; do
        grep -qx "$package $patch" /recipe/left-out && continue
        logged patch --strip=1 --fuzz=0 --no-backup-if-mismatch --input "debian/patches/$patch"
        echo "$package $patch $(grep -ohE 'CVE-[0-9]{4}-[0-9]+' - "debian/patches/$patch" <<<"$patch" | sort -u | paste -sd,)" \
            >>"$record/patches"
    done </build/series
}

fetch openssl
fetch python3.11
# The date of the last change: it goes into what CPython says of its own build, instead of today.
SOURCE_DATE_EPOCH=$(cd python3.11 && dpkg-parsechangelog -S Timestamp)
export SOURCE_DATE_EPOCH

# Only the two libraries and their headers. Certificates are looked for where Debian has them (Fluxen looks elsewhere, too).
cd openssl
apply openssl
# What neither TLS 1.2 and 1.3 nor Python's hashlib can do without stays; -Os: the fast paths are in assembler anyway.
unused=$(printf 'no-%s ' tests legacy zlib ssl3 ssl3-method idea mdc2 rc5 aria bf camellia cast cmp cms ct dsa dtls ec2m engine gost \
    md4 nextprotoneg ocb rc2 rc4 rfc3779 rmd160 seed siv sm2 sm3 sm4 srp srtp ts weak-ssl-ciphers whirlpool)
logged ./config shared $unused enable-ktls -Os \
    --prefix=/usr/local --libdir=lib --openssldir=/usr/lib/ssl -Wl,--build-id=none
logged make -j"$(nproc)" build_generated
logged make -j"$(nproc)" libcrypto.so libssl.so
cp -r include/openssl /usr/local/include/
cp -P libcrypto.so* libssl.so* /usr/local/lib/
mkdir -p "$record/licences" && cp LICENSE.txt "$record/licences/openssl"
cd ..
ldconfig
say "OpenSSL is built"

cd python3.11
apply python3.11
# Debian's backport of CVE-2026-4224 makes this module use a header of the core, for which Debian's own build has a flag.
printf '%s\n' '*shared*' 'pyexpat pyexpat.c -DPy_BUILD_CORE_MODULE -lexpat' \
    '*disabled*' _sqlite3 _tkinter _dbm _gdbm nis ossaudiodev spwd _crypt readline _curses _curses_panel _uuid >Modules/Setup.local
logged ./configure --prefix=/usr/local --enable-shared --disable-test-modules --without-doc-strings --with-ensurepip=no \
    --with-openssl=/usr/local --with-system-expat --with-system-ffi ${PGO:+--enable-optimizations} \
    OPT="-DNDEBUG -fwrapv -O2 -Wall" CFLAGS=-fno-semantic-interposition LDFLAGS="-fno-semantic-interposition -Wl,--build-id=none"
logged make -j"$(nproc)" ${PROFILE_TASK:+PROFILE_TASK="$PROFILE_TASK"}
if grep -A3 'Failed to build these modules' /build/log; then exit 1; fi
logged make install
cp LICENSE "$record/licences/python3.11"
cd ..
ldconfig
find /usr/local -name '*.so*' -type f -exec strip --strip-unneeded {} +
strip --strip-all /usr/local/bin/python3.11
rm -rf /usr/local/lib/python3.11/{test,idlelib,tkinter,lib2to3,turtledemo,config-*/*.a} /usr/local/lib/*.a
say "CPython is built"

python3.11 - <<'PY'
import ctypes, hashlib, lzma, pyexpat, ssl, zlib, bz2
assert ssl.OPENSSL_VERSION.startswith("OpenSSL 3.0."), ssl.OPENSSL_VERSION
assert ssl.get_default_verify_paths().openssl_cafile == "/usr/lib/ssl/cert.pem"
PY
