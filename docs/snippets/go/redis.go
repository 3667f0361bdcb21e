// go get github.com/redis/go-redis/v9
package main

import (
	"context"
	"log"
	"os"

	"github.com/redis/go-redis/v9"
)

func main() {
	options, err := redis.ParseURL(os.Getenv("REDIS_URL")) // redis://127.0.0.1:6379
	if err != nil {
		log.Fatal(err)
	}
	client := redis.NewClient(options)
	defer client.Close()

	err = client.Publish(context.Background(), "clarion:orders/eu", `{"id":7,"amount":"12.50"}`).Err()
	if err != nil {
		log.Fatal(err)
	}
}
