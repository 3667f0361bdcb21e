require "json"
require "net/http"

answer = Net::HTTP.post(
  URI("#{ENV.fetch("CLARION_URL")}/orders/eu"), # http://127.0.0.1:8000
  JSON.generate(id: 7, amount: "12.50"),
  "Content-Type" => "application/json",
  "X-API-Key" => ENV.fetch("CLARION_API_KEY")
)
# 503: try again; 504: nobody can know
raise "#{answer.code}: #{answer.body}" unless answer.is_a?(Net::HTTPOK)
