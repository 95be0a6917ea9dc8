// Puts on an etcd cluster at full speed, and what came of them as one line of JSON.
//
// A client is a goroutine that waits for its answer before it puts again; with -batch above 1 it puts so many keys in
// one transaction. The connections (one gRPC client each) are shared among the clients in turn.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/clientv3"
)

type result struct {
	Operations int          `json:"operations"` // puts, not transactions
	Seconds    float64      `json:"seconds"`
	Errors     int          `json:"errors"`
	Error      string       `json:"error"`
	Mean       float64      `json:"mean"`
	Quantiles  [][2]float64 `json:"quantiles"` // (seconds, per cent that took no longer)
}

var quantiles = []float64{0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 99.99, 100}

type worker struct {
	latencies []float64 // of each put or transaction
	errors    int
	err       error
}

func main() {
	endpoints := flag.String("endpoints", "127.0.0.1:2379", "of the members, by commas")
	clients := flag.Int("clients", 1, "goroutines, each with one put under way")
	connections := flag.Int("connections", 8, "gRPC connections")
	batch := flag.Int("batch", 1, "puts in a transaction")
	size := flag.Int("value-size", 256, "bytes")
	records := flag.Int("records", 10000, "keys")
	seconds := flag.Float64("seconds", 1, "duration")
	seed := flag.Int64("seed", 0, "of keys and values")
	flag.Parse()
	if *batch > *records {
		fmt.Fprintf(os.Stderr, "a transaction puts a key once only: %d puts need as many keys, not %d\n", *batch, *records)
		os.Exit(1)
	}

	var shared []*clientv3.Client
	for i := 0; i < *connections && i < *clients; i++ {
		client, err := clientv3.New(clientv3.Config{
			Endpoints: strings.Split(*endpoints, ","), DialTimeout: 10 * time.Second,
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer client.Close()
		shared = append(shared, client)
	}
	warmUp, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, client := range shared { // connected, and a leader is there
		if _, err := client.Put(warmUp, "warm", "up"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}

	workers := make([]worker, *clients)
	var all sync.WaitGroup
	begin := time.Now()
	end := begin.Add(time.Duration(*seconds * float64(time.Second)))
	for i := range workers {
		all.Add(1)
		go func(i int) {
			defer all.Done()
			dice := rand.New(rand.NewSource(*seed*1000003 + int64(i)))
			workers[i].run(shared[i%len(shared)], dice, *batch, *size, *records, end)
		}(i)
	}
	all.Wait()
	found := summary(workers, *batch, time.Since(begin).Seconds())
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		os.Exit(1)
	}
}

func (w *worker) run(client *clientv3.Client, dice *rand.Rand, batch, size, records int, end time.Time) {
	value := make([]byte, size)
	for time.Now().Before(end) {
		puts := make([]clientv3.Op, 0, batch)
		taken := make(map[int]bool, batch) // a transaction may put a key once only
		for len(puts) < batch {
			key := dice.Intn(records)
			for taken[key] {
				key = (key + 1) % records
			}
			taken[key] = true
			dice.Read(value)
			puts = append(puts, clientv3.OpPut(fmt.Sprintf("user%012d", key), string(value)))
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		sent := time.Now()
		var err error
		if batch == 1 {
			_, err = client.Do(ctx, puts[0])
		} else {
			_, err = client.Txn(ctx).Then(puts...).Commit()
		}
		took := time.Since(sent).Seconds()
		cancel()
		if err != nil {
			w.errors += batch
			w.err = err
			continue
		}
		w.latencies = append(w.latencies, took)
	}
}

func summary(workers []worker, batch int, seconds float64) result {
	found := result{Seconds: seconds}
	var all []float64
	for _, w := range workers {
		all = append(all, w.latencies...)
		found.Errors += w.errors
		if w.err != nil {
			found.Error = w.err.Error()
		}
	}
	sort.Float64s(all)
	found.Operations = len(all) * batch
	if len(all) == 0 {
		return found
	}
	sum := 0.0
	for _, latency := range all {
		sum += latency
	}
	found.Mean = sum / float64(len(all))
	for _, q := range quantiles {
		rank := int(math.Ceil(q * float64(len(all)) / 100))
		if rank < 1 {
			rank = 1
		}
		found.Quantiles = append(found.Quantiles, [2]float64{all[rank-1], q})
	}
	return found
}
