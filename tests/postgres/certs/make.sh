#!/bin/sh
# Makes the certificates of this folder anew. They last a hundred years, but for the expired one.
set -eu
cd "$(dirname "$0")"
rm -f ./*.pem ./*.key
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
touch "$work/index"
cat >"$work/ca.conf" <<EOF_CONF
[ca]
default_ca = ours
[ours]
certificate = ca.pem
private_key = $work/ca.key
database = $work/index
new_certs_dir = $work
rand_serial = yes
default_md = sha256
default_days = 36500
default_crl_days = 36500
policy = any
[any]
commonName = supplied
EOF_CONF

key() {
    openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

ca() {
    openssl ca -batch -notext -config "$work/ca.conf" "$@" 2>"$work/log" || {
        cat "$work/log" >&2
        return 1
    }
}

# signed FILE NAMES [options of ca]
signed() {
    file=$1
    echo "subjectAltName = $2" >"$work/names"
    shift 2
    key "$file.key"
    openssl req -new -key "$file.key" -subj "/CN=$file" -out "$work/request"
    ca -in "$work/request" -out "$file.pem" -extfile "$work/names" "$@"
}

here="DNS:localhost,IP:127.0.0.1"
key "$work/ca.key"
openssl req -x509 -new -key "$work/ca.key" -out ca.pem -days 36500 -subj "/CN=Tailrace test authority"
key self-signed.key
openssl req -x509 -new -key self-signed.key -out self-signed.pem -days 36500 -subj "/CN=localhost" \
    -addext "subjectAltName = $here"
signed server "$here"
signed elsewhere DNS:elsewhere.test
signed expired "$here" -startdate 20200101000000Z -enddate 20200102000000Z
signed revoked "$here"
signed client DNS:client
openssl pkey -in client.key -aes256 -passout pass:s3cr3t-key -out client-locked.key
ca -revoke revoked.pem
ca -gencrl -out crl.pem
