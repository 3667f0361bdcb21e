# gem install redis
require "json"
require "redis"

redis = Redis.new(url: ENV.fetch("REDIS_URL")) # redis://127.0.0.1:6379
redis.publish("clarion:orders/eu", JSON.generate(id: 7, amount: "12.50"))
