# With bash alone: NATS speaks text. PONG means that the server has it.
LC_ALL=C   # so that ${#payload} counts bytes
payload='{"id":7,"amount":"12.50"}'
hostport=${NATS_URL#nats://}   # nats://127.0.0.1:4222
exec 3<> "/dev/tcp/${hostport%:*}/${hostport#*:}"
printf 'CONNECT {"verbose":false}\r\n' >&3
printf 'PUB clarion.orders.eu %d\r\n%s\r\nPING\r\n' "${#payload}" "$payload" >&3
grep -qm1 PONG <&3
