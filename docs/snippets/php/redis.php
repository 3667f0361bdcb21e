<?php // pecl install redis, or Debian's php-redis
$at = parse_url(getenv('REDIS_URL')); // redis://127.0.0.1:6379
$redis = new Redis();
$redis->connect($at['host'], $at['port'] ?? 6379, 2.0);
$redis->publish('clarion:orders/eu', json_encode(['id' => 7, 'amount' => '12.50']));
