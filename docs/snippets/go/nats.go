// go get github.com/nats-io/nats.go
package main

import (
	"log"
	"os"

	"github.com/nats-io/nats.go"
)

func main() {
	client, err := nats.Connect(os.Getenv("NATS_URL")) // nats://127.0.0.1:4222
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	if err := client.Publish("clarion.orders.eu", []byte(`{"id":7,"amount":"12.50"}`)); err != nil {
		log.Fatal(err)
	}
	if err := client.Flush(); err != nil { // publishing only writes to a buffer
		log.Fatal(err)
	}
}
