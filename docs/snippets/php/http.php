<?php // with PHP's curl extension
$request = curl_init(getenv('CLARION_URL') . '/orders/eu'); // http://127.0.0.1:8000
curl_setopt_array($request, [
    CURLOPT_POSTFIELDS => json_encode(['id' => 7, 'amount' => '12.50']),
    CURLOPT_HTTPHEADER => [
        'Content-Type: application/json',
        'X-API-Key: ' . getenv('CLARION_API_KEY'),
    ],
    CURLOPT_RETURNTRANSFER => true,
    CURLOPT_TIMEOUT => 10,
]);
$answer = curl_exec($request);
$status = curl_getinfo($request, CURLINFO_RESPONSE_CODE);
if ($status !== 200) {
    throw new RuntimeException("$status: $answer"); // 503: try again; 504: nobody can know
}
