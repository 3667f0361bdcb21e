<?php // No library: NATS speaks text. With TLS, credentials or several servers take one,
// such as basis-company/nats.
function nats_publish(string $url, string $subject, string $payload): void
{
    $at = parse_url($url);
    $address = "tcp://{$at['host']}:" . ($at['port'] ?? 4222);
    $socket = stream_socket_client($address, $code, $error, 2.0);
    if (!$socket) {
        throw new RuntimeException($error);
    }
    stream_set_timeout($socket, 5);
    fgets($socket); // INFO {…}
    fwrite($socket, "CONNECT {\"verbose\":false}\r\n");
    fwrite($socket, "PUB $subject " . strlen($payload) . "\r\n$payload\r\nPING\r\n");
    $answer = fgets($socket); // PONG: the server has it
    if ($answer !== "PONG\r\n") {
        throw new RuntimeException("NATS said: $answer");
    }
    fclose($socket);
}

$payload = json_encode(['id' => 7, 'amount' => '12.50']);
nats_publish(getenv('NATS_URL'), 'clarion.orders.eu', $payload); // nats://127.0.0.1:4222
