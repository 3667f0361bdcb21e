"""The proxy before the nodes. What it does is taken from the files that real deployments use: `deploy/compose` for taking
turns and the annotations of the ingresses for bringing a user to one node.
"""

import re
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[1]
PORT = 8000

# NGINX as the ingress would write it. Without active checks a node counts as away when it refuses a connection.
NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log stderr;
worker_processes 1;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
    access_log off;
{temporary}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    upstream clarion {{
{method}{servers}
    }}
    server {{
        listen {port};
        client_max_body_size {max_body};
        location / {{
            proxy_pass http://clarion;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_connect_timeout 2s;
            proxy_read_timeout {read_timeout};
            proxy_send_timeout {send_timeout};
            proxy_buffering off;
            proxy_socket_keepalive on;
            # A node that is not ready says 503 to newcomers; the next one takes them.
            proxy_next_upstream error timeout http_503;
        }}
    }}
}}
"""


def haproxy(nodes, hashes):
    """The proxy of compose, with these nodes: names and addresses."""
    text = (DEPLOY / "compose/haproxy.cfg").read_text()
    text = re.sub(r"(?m)^resolvers .*\n(?:    .*\n)*", "", text)
    text = re.sub(r"(?m)^    server .*\n", "", text).replace(" resolvers docker init-addr libc,none", "")
    if hashes:
        # What the controller puts after its own algorithm counts, as it does there.
        text = text.replace("    balance roundrobin\n", "    balance roundrobin\n" + annotation_block("haproxy", "haproxy.org/backend-config-snippet"))
    return text + "".join(f"    server {name} {address}:{PORT}\n" for name, address in nodes)


def nginx(nodes, hashes, folder):
    """NGINX with these nodes and the ingress's settings."""
    annotation = lambda name: re.search(rf"(?m)^    nginx\.org/{name}: \"?([^\"\n]*)", ingress("nginx"))[1]
    method = f"        {annotation('lb-method')};\n" if hashes else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return NGINX.format(
        folder=folder,
        temporary="\n".join(f"    {kind}_temp_path {folder}/{kind};" for kind in kinds),
        method=method,
        servers="\n".join(f"        server {address}:{PORT} max_fails=1 fail_timeout=2s;" for _, address in nodes),
        port=PORT,
        max_body=annotation("client-max-body-size"),
        read_timeout=annotation("proxy-read-timeout"),
        send_timeout=annotation("proxy-send-timeout"),
    )


def ingress(name):
    return (DEPLOY / f"k8s/components/edge-{name}/ingress.yaml").read_text()


def annotation_block(edge, name):
    """The lines of an annotation that is a block of text. The files are our own, so no YAML is needed for that."""
    block = re.search(rf"(?m)^    {re.escape(name)}: \|\n((?:      .*\n)+)", ingress(edge))[1]
    return re.sub(r"(?m)^      ", "    ", block)
