package main

import (
	"io"
	"log"
	"net/http"
	"os"
	"strings"
)

func main() {
	url := os.Getenv("CLARION_URL") + "/orders/eu" // http://127.0.0.1:8000
	request, err := http.NewRequest("POST", url, strings.NewReader(`{"id":7,"amount":"12.50"}`))
	if err != nil {
		log.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("X-API-Key", os.Getenv("CLARION_API_KEY"))

	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusOK {
		log.Fatalf("%s: %s", answer.Status, body) // 503: try again; 504: nobody can know
	}
}
