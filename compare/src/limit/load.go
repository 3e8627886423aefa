// The load of `compare -- limit` for a runtime that collects garbage: what is dropped is what the
// other load frees.
package main

import (
	"math/rand"
	"os"
	"strconv"
	"sync"
	"time"
)

var phases = [][2]int{{16, 512}, {512, 8 << 10}, {16, 256}, {8 << 10, 256 << 10}, {16, 4 << 10}, {4 << 10, 64 << 10}}

const (
	threads             = 2
	generations         = 16
	oneSurvivesOf       = 512
	survivedGenerations = 3 * generations
	dip                 = 2
	lists               = 64
)

// A slice is three words beside its bytes.
const header = 24

type generation struct {
	lists [lists][][]byte
	bytes int
}

func (g *generation) freeOne() int {
	for i := range g.lists {
		if n := len(g.lists[i]); n > 0 {
			freed := len(g.lists[i][n-1]) + header
			g.bytes -= freed
			g.lists[i][n-1] = nil
			g.lists[i] = g.lists[i][:n-1]
			return freed
		}
	}
	return 0
}

func freeUntil(below int, living *int, queues ...*[]*generation) {
	for _, queue := range queues {
		for *living > below && len(*queue) > 0 {
			if freed := (*queue)[0].freeOne(); freed > 0 {
				*living -= freed
			} else {
				*queue = append([]*generation(nil), (*queue)[1:]...)
			}
		}
	}
}

func churn(bytes int, seed int64) {
	random := rand.New(rand.NewSource(seed))
	var young, old []*generation
	living := 0
	for phase, sizes := range phases {
		for i := 0; i < generations; i++ {
			fresh, survivors := &generation{}, &generation{}
			for fresh.bytes+survivors.bytes < bytes/generations {
				size := sizes[0] + random.Intn(sizes[1]-sizes[0]+1)
				freeUntil(bytes-size-header, &living, &young, &old)
				object := make([]byte, size)
				for at := 0; at < size; at += 4096 {
					object[at] = 0x5A
				}
				chosen := fresh
				if random.Intn(oneSurvivesOf) == 0 {
					chosen = survivors
				}
				list := random.Intn(lists)
				chosen.lists[list] = append(chosen.lists[list], object)
				chosen.bytes += size + header
				living += size + header
			}
			young, old = append(young, fresh), append(old, survivors)
			if len(old) > survivedGenerations {
				living -= old[0].bytes
				old = append([]*generation(nil), old[1:]...)
			}
		}
		if phase == dip {
			freeUntil(bytes/2, &living, &young, &old)
			time.Sleep(300 * time.Millisecond)
		}
	}
}

func main() {
	live, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	var done sync.WaitGroup
	for seed := 1; seed <= threads; seed++ {
		done.Add(1)
		go func(seed int64) {
			defer done.Done()
			churn(live/threads, seed)
		}(int64(seed))
	}
	done.Wait()
}
